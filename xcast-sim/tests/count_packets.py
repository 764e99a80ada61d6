"""Counts packets on each link of graphs with networkx, for comparison.

Reads a JSON list from standard input, an entry for each graph: links [from, to, cost, number there,
number back], cost deciding between paths of equally many hops, and pairs [from, to]. Writes a list
of, by number of a link's direction, how many shortest paths use it, and for each pair its hops.
"""

import json
import sys

import networkx as nx

# Costs are below 2^47, and integers have no limit: hops always come first.
HOP = 1 << 80


def count(links, pairs):
    graph = nx.Graph()
    numbers = {}
    for a, b, cost, there, back in links:
        graph.add_edge(a, b, weight=HOP + cost)
        numbers[a, b] = there
        numbers[b, a] = back
    counts = {}
    hops = []
    for source, target in pairs:
        path = nx.dijkstra_path(graph, source, target)
        hops.append(len(path) - 1)
        for step in zip(path, path[1:]):
            counts[numbers[step]] = counts.get(numbers[step], 0) + 1
    return {"counts": counts, "hops": hops}


json.dump([count(**graph) for graph in json.load(sys.stdin)], sys.stdout)
