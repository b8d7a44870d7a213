"""What a plan does with answers: accept rules, aggregators, and the tape that replays plans on recorded outcomes."""
