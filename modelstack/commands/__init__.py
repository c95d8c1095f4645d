"""Commands of the command line, a module for each step; what a command needs is imported when it runs."""
