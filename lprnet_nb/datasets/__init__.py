"""Plates: published, CCPD, folders of users, generated; images as the network takes them."""
