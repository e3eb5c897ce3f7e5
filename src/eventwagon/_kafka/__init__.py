"""What the Kafka broker and registry share: clients, logs that carry state, the rules of both. Private."""
