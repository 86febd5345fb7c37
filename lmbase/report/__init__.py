"""Figures as they are written down: rows of metrics.json, tables, charts and pages made of them."""
