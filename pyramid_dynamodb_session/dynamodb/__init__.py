"""Calls to DynamoDB: nothing in here knows of sessions."""
