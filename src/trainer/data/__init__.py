"""The data sources: one a file, and what turns their samples into batches."""
