"""What every experiment shares: one main, records, tables, figures, the report, and processes for timings."""
