"""What every service needs and no model or store does: errors, gRPC, logging, metrics, clock, lifecycle."""
