"""A node of libtorrent, driven by lines: `libtorrent_node.py ADDRESS PORT`, which listens there.

Each line of standard input is a command in JSON, ["name", argument, ...]; each line of standard
output an answer. Binary arguments are hexadecimal, values of items are texts.
"""

import hashlib
import json
import sys
import time

import libtorrent as lt

PATIENCE_S = 30


def settings(address, port):
    return {
        "listen_interfaces": f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
        "enable_dht": True,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "dht_bootstrap_nodes": "",
        "alert_mask": lt.alert.category_t.dht_notification
        | lt.alert.category_t.error_notification
        | lt.alert.category_t.dht_operation_notification,
    }


def wait(session, wanted):
    """The first alert for which `wanted` gives something, or None."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            found = wanted(alert)
            if found is not None:
                return found
    return None


def of(kind, value):
    return lambda alert: value(alert) if isinstance(alert, kind) else None


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


class Node:
    def __init__(self, address, port):
        self.session = lt.session(settings(address, port))

    def add(self, address, port):
        """Makes a node known."""
        self.session.add_dht_node((address, port))
        return True

    def live(self, node_id):
        """The nodes of the routing table of the node with this identifier."""
        self.session.dht_live_nodes(lt.sha1_hash(bytes.fromhex(node_id)))
        return wait(
            self.session,
            of(lt.dht_live_nodes_alert, lambda a: [str(n) for n in a.nodes]),
        )

    def get_peers(self, key):
        self.session.dht_get_peers(lt.sha1_hash(bytes.fromhex(key)))
        return wait(
            self.session,
            of(
                lt.dht_get_peers_reply_alert,
                lambda a: [f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip, port in a.peers()]
                or None,
            ),
        )

    def announce(self, key):
        """As for a torrent of which nothing else is known: dht_announce lacks a type in Python."""
        torrent = lt.parse_magnet_uri("magnet:?xt=urn:btih:" + key)
        torrent.save_path = "."
        self.session.add_torrent(torrent).force_dht_announce()
        return True

    def put(self, value):
        target = self.session.dht_put_immutable_item(value)
        stored = wait(self.session, of(lt.dht_put_alert, lambda a: a.num_success))
        return [str(target), stored]

    def get(self, target):
        self.session.dht_get_immutable_item(lt.sha1_hash(bytes.fromhex(target)))
        return wait(self.session, of(lt.dht_immutable_item_alert, lambda a: text(a.item["value"])))

    def put_mutable(self, secret, public, value, salt):
        # libtorrent's private key is what RFC 8032, section 5.1.5, makes of the secret.
        private = bytearray(hashlib.sha512(bytes.fromhex(secret)).digest())
        private[0] &= 0xF8
        private[31] = private[31] & 0x7F | 0x40
        self.session.dht_put_mutable_item(
            bytes(private), bytes.fromhex(public), value.encode(), salt.encode()
        )
        return wait(self.session, of(lt.dht_put_alert, lambda a: a.num_success))

    def get_mutable(self, public, salt):
        self.session.dht_get_mutable_item(bytes.fromhex(public), salt.encode())
        return wait(
            self.session,
            of(lt.dht_mutable_item_alert, lambda a: [text(a.item["value"]), a.item["seq"]]),
        )


def main():
    node = Node(sys.argv[1], int(sys.argv[2]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(node, name)(*arguments)), flush=True)


main()
