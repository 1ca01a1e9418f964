"""A folder or a CSV file as an index of labelled images."""
