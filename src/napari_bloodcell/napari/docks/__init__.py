"""The docks of the plugin."""
