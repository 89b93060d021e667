"""What a router tells people: `views` puts it together (pure), `watching` asks Redis and keeps samples."""
