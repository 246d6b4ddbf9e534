"""Everything about the released code: its configurations, keys, weights and tables."""
