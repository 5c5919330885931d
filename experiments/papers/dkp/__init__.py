"""Learning the Connections in Direct Feedback Alignment (direct Kolen-Pollack): its tables and figures."""
