"""Jitted generation."""
