"""Engine.IO connections over HTTP long-polling and WebSocket."""
