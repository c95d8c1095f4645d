"""Programs that write parts of the documentation: pictures of a terminal, pages of figures and of references."""
