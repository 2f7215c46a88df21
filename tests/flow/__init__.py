"""Bodies under pressure: much at once, slow readers, halves that close, peers that leave."""
