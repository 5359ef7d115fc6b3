"""Graphs: Cora and CiteSeer (planetoid.py), the karate club (nodes.py), sets of small graphs (tu.py)."""
