"""Processes and configurations come and go under traffic, and no request is lost."""
