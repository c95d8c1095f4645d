"""Rows that the shipped classifiers are fitted on: public sets by licence, and pairs made by rule."""
