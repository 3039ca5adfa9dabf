/* A chat server, one client after the other. What a client says is not relayed so far. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void serve(int sock, struct sockaddr_in address) {
    char data[4096];
    fprintf(stderr, "%s:%d joined\n", inet_ntoa(address.sin_addr), ntohs(address.sin_port));
    while (recv(sock, data, sizeof data, 0) > 0) {
        /* TODO: some bytes came: not a line, and not a message. Make lines of them, and send each to all the others. */
    }
    close(sock);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (argc != 2) {
        fprintf(stderr, "usage: server PORT\n");
        return 2;
    }
    address.sin_port = htons(atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128)) {
        fprintf(stderr, "server: cannot listen on 127.0.0.1:%s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    fprintf(stderr, "listening on 127.0.0.1:%s\n", argv[1]);
    for (;;) {
        socklen_t size = sizeof address;
        int sock = accept(listener, (struct sockaddr *)&address, &size);
        if (sock >= 0)
            serve(sock, address); /* TODO: the next one waits here until this one has left */
    }
}
