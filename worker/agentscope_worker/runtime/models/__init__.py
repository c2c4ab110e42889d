"""The model slots: `runtime.models`.

Read `models` first.
"""
