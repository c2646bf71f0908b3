"""Calls to DynamoDB; nothing here knows of a session."""
