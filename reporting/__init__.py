"""One static page of charts from the marts, and the diagram of how the marts hang together."""
