"""Questions about long texts that another model writes."""
