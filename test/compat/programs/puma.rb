workers 2
worker_check_interval 1 # seconds until it sees that a worker has booted
