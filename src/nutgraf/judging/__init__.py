"""Blind preferences of people: the clicks, and what they show."""
