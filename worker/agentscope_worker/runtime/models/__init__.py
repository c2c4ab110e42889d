"""The model slots: `runtime.models`.

Read `slots` first.
"""
