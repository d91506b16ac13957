"""The command line: thin verbs over typed functions. Nothing here is imported by the library."""
