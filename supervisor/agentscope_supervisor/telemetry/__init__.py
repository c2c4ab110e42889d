"""Counters, gauges and histograms, and their text format for Prometheus.

May read the output of turns (`runs`). Must not make decisions. Start with `metrics`.
"""
