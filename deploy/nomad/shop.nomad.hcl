# The app shop as a Nomad job. The Nomad Autoscaler sets its count to hosts_wanted, which
# forkd fleet serve tells Prometheus: see docs/scaling.md. Each allocation is a host of the fleet.
# Change: the image, the command, the limits, Redis's URL. The agent of the autoscaler needs
#
#     apm "prometheus" {
#       driver = "prometheus"
#       config = { address = "http://prometheus:9090" }
#     }
#     strategy "pass-through" { driver = "pass-through" }
job "shop" {
  group "web" {
    count = 2

    scaling {
      enabled = true
      min     = 2  # serve with --min-hosts 2
      max     = 20 # and --max-hosts 20

      policy {
        evaluation_interval = "10s"
        cooldown            = "3m"

        # Nomad does not ask which allocation to stop, so nobody needs to lead (fleet advise -f).
        # Without a leader the number is one of the moment: fewer count when 10 minutes have seen no more.
        check "hosts_wanted" {
          source = "prometheus"
          query  = "max(max_over_time(forkd_fleet_hosts_wanted{app=\"shop\"}[10m]))"

          strategy "pass-through" {}
        }
      }
    }

    network {
      port "ws" {}
      port "metrics" {}
    }

    service {
      name     = "shop"
      port     = "ws"
      provider = "nomad"

      # 503 while it drains.
      check {
        type     = "http"
        port     = "metrics"
        path     = "/healthz"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "forkd" {
      driver = "docker"

      # More than drain.delay + drain.timeout, and no more than the client's max_kill_timeout
      # (30s). On TERM forkd says for drain.delay that it drains, and then lets the workers drain.
      kill_timeout = "30s"

      config {
        image        = "shop:1" # FROM forkd, with the server: see Dockerfile
        args         = ["run", "-c", "/local/forkd.toml"]
        network_mode = "host"
      }

      env {
        FORKD_REDIS_URL = "redis://redis.example"
        WS_REDIS_URL    = "redis://redis.example"
      }

      template {
        destination = "local/forkd.toml"
        data        = <<-EOT
          name = "shop"
          command = ["/websocket"]
          workers = 2
          [[listen]]
          name = "ws"
          address = "{{ env "NOMAD_ADDR_ws" }}"
          [drain]
          delay = "5s"
          timeout = "20s"
          [metrics]
          address = "{{ env "NOMAD_ADDR_metrics" }}"
          [redis]
          url = "{{ env "FORKD_REDIS_URL" }}"
          host_id = "{{ env "NOMAD_ALLOC_ID" }}"
          advertise = ["{{ env "NOMAD_ADDR_ws" }}"]
          control = true
          connection_limit_per_host = 5000
          max_connections_per_host = 6000
        EOT
      }

      resources {
        cores  = 2
        memory = 512
      }
    }
  }
}
