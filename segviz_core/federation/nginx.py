"""nginx instead of the built-in front, for studies with an administrator: the configuration that does the same."""

from pathlib import Path

from segviz_core.federation.fleet_paths import LARGEST_BODY, PATHS

NGINX_FILE = "nginx.conf"

_CONFIGURATION = """\
# Written by `segviz_core coordinator front STUDY nginx`. It ends TLS for the sites of one study and passes on their
# requests, nothing else: Flower's own control of the study stays on 127.0.0.1.
# It belongs inside `http { ... }`: sudo ln -s "@STUDY@/nginx.conf" /etc/nginx/conf.d/@NAME@.conf
limit_conn_zone $binary_remote_addr zone=@NAME@:1m;

server {
    listen @BIND@:@PORT@ ssl;
    server_name @HOST@;
    server_tokens off;
    access_log off;

    ssl_certificate "@STUDY@/server.crt";
    ssl_certificate_key "@STUDY@/server.key";
    ssl_protocols TLSv1.2 TLSv1.3;

    client_max_body_size @BODY_MB@m;
    client_header_timeout 10s;
    client_body_timeout 60s;
    keepalive_timeout 75s;
    send_timeout 60s;
    limit_conn @NAME@ 100;

    location / {
        return 404;
    }

    location ~ ^/v1/fleet/(?<call>@CALLS@)$ {
        if ($request_method != POST) {
            return 404;
        }
        proxy_pass https://127.0.0.1:@SUPERLINK_PORT@/v1/fleet/$call;
        proxy_ssl_name localhost;
        proxy_ssl_trusted_certificate "@STUDY@/ca.crt";
        proxy_ssl_verify on;
        proxy_set_header Host localhost;
        proxy_http_version 1.1;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_read_timeout 180s;
    }
}
"""


def write_configuration(study: Path, *, host: str, bind: str, port: int, superlink_port: int) -> Path:
    """Write STUDY/nginx.conf; gives its path."""
    values = {
        "STUDY": str(study.resolve()),
        "NAME": f"segviz_{port}",
        "HOST": host,
        "BIND": bind,
        "PORT": str(port),
        "BODY_MB": str(LARGEST_BODY // 2**20),
        "CALLS": "|".join(path.rpartition("/")[2] for path in PATHS),
        "SUPERLINK_PORT": str(superlink_port),
    }
    text = _CONFIGURATION
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    path = study / NGINX_FILE
    path.write_text(text, encoding="utf-8")
    return path
