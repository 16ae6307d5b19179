"""Command line: the jobs without a page. May import every room but the page's."""
