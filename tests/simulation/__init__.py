"""A deterministic simulation of whole applications on one table."""
