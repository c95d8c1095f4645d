"""Commands of the command line, with a module for each step; a command's imports happen when it runs."""
