"""The command line: thin verbs over typed functions."""
