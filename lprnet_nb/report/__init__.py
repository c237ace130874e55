"""A report: notebooks run by papermill, their pages, the verdict, the status, README's tables."""
