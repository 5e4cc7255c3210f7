"""The edge: from a config to the stages of a system. Only these files know a ConfigDict."""
