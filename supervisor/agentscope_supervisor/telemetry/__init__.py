"""What is measured: counters, histograms, and their Prometheus text.

May read what a turn's output is (`runs`); never decides anything. Read `metrics` first.
"""
