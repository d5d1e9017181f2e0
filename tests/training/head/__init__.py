"""Tests of training/head."""
