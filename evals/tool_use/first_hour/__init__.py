"""Requests of a newcomer in the first hour: 60 requests over our filesystem, SQLite and time servers.

A measure of the shipped profiles, never training data: see README.md.
"""
