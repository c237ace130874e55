"""Scripts that run in the compiler's own Python; nothing here is imported by the workbook."""
