"""Real servers for tests: started on free ports in folders of their own, killed and started again by tests.

The fixtures stand in `fixtures.py`; `proxy.py` troubles the network; `install.py` is where the servers come from.
"""
