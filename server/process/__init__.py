"""Server processes: wiring, ports, supervision, shutdown. It imports every package but cli."""
