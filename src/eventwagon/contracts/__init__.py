"""The seams and the documents, in the words of the pattern: what processes share and what a driver implements."""
