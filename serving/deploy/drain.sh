#!/usr/bin/env bash
# Waits until the model server answers no more requests. It runs before SIGTERM, at which TensorFlow
# Serving drops the requests in flight.
#     drain.sh [REST port]
# A pod that ends gets no new connections, and --grpc_channel_arguments closes those that it has. So the
# orchestrators move to the other pods within 66 s (the maximum age of a connection plus 10 %). This script
# ends when no request has been answered for 3 s, or after 100 s at the latest.
port=${1:-8501}

# The image has no HTTP client, so bash opens the connection.
answered() {
	exec 3<>"/dev/tcp/127.0.0.1/$port" || return
	printf 'GET /monitoring/prometheus/metrics HTTP/1.0\r\n\r\n' >&3
	grep '^:tensorflow:serving:request_count{' <&3
	exec 3>&-
}

# The other nodes need time to learn that the pod ends.
sleep 5
before=$(answered)
for _ in {1..32}; do
	sleep 3
	now=$(answered)
	[[ $now == "$before" ]] && exit
	before=$now
done
