/* The inner loop of the load generator: read, check, book, say more. One load in each process, so its state is global.
 *
 * It knows what a right line looks like and what number comes next, and counts those. Whatever is not so it reports, bytes and
 * all, and load.py takes it apart. load.py has the same loop without this one, for machines without a C compiler; it is the
 * slower one by far, so that the load and not the server would be what is measured. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

enum { READ_SIZE = 64 * 1024, EVENTS = 1024, ODDITIES = 16 * 1024, ARENA = 4 << 20, KEY = 8, NUMBER_BITS = 26, HEAD_SIZE = 64 };
enum { GONE, RAW, GAP, LATE };

struct odd { int32_t kind, client; int64_t pair, expected, number; const char *data; int64_t size; };
struct partial { int size; char *data; };
struct head { int32_t size; char data[HEAD_SIZE]; };    /* what stands before a sender's text; size -1: not known yet */

struct odd oddities[ODDITIES];              /* of this turn, for load.py to read */
int64_t delivered;

static int epoll_fd, clients, talkers, text_size, longest_line, prefix_size, suffix_size, bare_allowed, *fd_of, *client_of;
static const char *text, *prefix, *suffix;
static const struct head *heads;
static int64_t *heard, *sent;
static struct partial *partials, *unsent;
static char arena[ARENA], *slow;            /* slow[client]: its lines are load.py's business */
static const double *due;
static double *latencies;
static int64_t latency_count, latency_room;

static double now(void) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return (double)moment.tv_sec + (double)moment.tv_nsec * 1e-9;
}

void setup(int epoll, int client_count, int talker_count, int *fds, int *clients_by_fd, char *slow_clients,
           const struct head *sender_heads, int bare, const char *text_pattern, int one_text_size,
           const char *sent_prefix, int sent_prefix_size, const char *sent_suffix, int sent_suffix_size,
           int64_t *heard_table, int64_t *sent_table) {
    epoll_fd = epoll; clients = client_count; talkers = talker_count; fd_of = fds; client_of = clients_by_fd; slow = slow_clients;
    heads = sender_heads; bare_allowed = bare; text = text_pattern; text_size = one_text_size;
    prefix = sent_prefix; prefix_size = sent_prefix_size; suffix = sent_suffix; suffix_size = sent_suffix_size;
    heard = heard_table; sent = sent_table;
    longest_line = HEAD_SIZE + text_size + 2;
    partials = calloc((size_t)clients, sizeof *partials);
    unsent = calloc((size_t)clients, sizeof *unsent);
}

void clock_lines(const double *due_times, double *into, int64_t size) {
    due = due_times; latencies = into; latency_room = size; latency_count = 0;
}

int64_t clocked(void) { return latency_count; }

/* 8 characters of 5 bits each, the lowest first; neighbours are joined three times. */
static uint64_t decode(const char *key) {
    uint64_t word;
    memcpy(&word, key, KEY);
    word &= 0x1f1f1f1f1f1f1f1f;
    word = (word & 0x001f001f001f001f) | (word >> 3 & 0x03e003e003e003e0);
    word = (word & 0x000003ff000003ff) | (word >> 6 & 0x000ffc00000ffc00);
    return (word & 0x00000000000fffff) | (word >> 12 & 0x000000fffff00000);
}

static void encode(uint64_t value, char *key) {
    for (int i = 0; i < KEY; i++) key[i] = (char)('@' | (value >> 5 * i & 31));
}

static struct odd *report(int *count, int kind, int client) {
    struct odd *odd = &oddities[(*count)++];
    *odd = (struct odd){.kind = kind, .client = client};
    return odd;
}

/* Whole lines from data; returns how many bytes were right. Head, text and newline must be so to the byte. */
static size_t check(int client, const char *data, size_t size, double moment, int *odd_count) {
    const char *line = data, *newline;
    while ((newline = memchr(line, '\n', (size_t)(data + size - line)))) {
        const char *end = newline > line && newline[-1] == '\r' ? newline - 1 : newline, *start = end - text_size;
        if (start < line) break;
        uint64_t value = decode(start), sender = value >> NUMBER_BITS;
        int64_t number = value & ((1 << NUMBER_BITS) - 1), head_size = start - line;
        if (sender >= (uint64_t)talkers || number >= sent[sender] || memcmp(start, end - KEY, KEY) ||
            memcmp(start + KEY, text + KEY, (size_t)(text_size - 2 * KEY)) || (start[0] & 0xe0) != '@' ||
            ((heads[sender].size != head_size || memcmp(line, heads[sender].data, (size_t)head_size)) &&
             (head_size || !bare_allowed)))
            break;
        int64_t pair = (int64_t)client * talkers + (int64_t)sender, expected = heard[pair];
        if (number == expected) {
            heard[pair] = number + 1;
        } else {
            struct odd *odd = report(odd_count, number > expected ? GAP : LATE, client);
            odd->pair = pair; odd->expected = expected; odd->number = number;
            if (number > expected) heard[pair] = number + 1;
        }
        delivered++;
        if (due && latency_count < latency_room) latencies[latency_count++] = moment - due[number];
        line = newline + 1;
    }
    return (size_t)(line - data);
}

/* Read every ready client once; returns how many oddities there are to be looked at, and in *ready who was read. */
int turn(int timeout, int *ready) {
    struct epoll_event events[EVENTS];
    int odd_count = 0;
    size_t used = 0;
    *ready = epoll_wait(epoll_fd, events, EVENTS, timeout);
    double moment = 0;
    for (int i = 0; i < *ready; i++) {
        int client = client_of[events[i].data.fd];
        struct partial *partial = &partials[client];
        if (ARENA - used < READ_SIZE + (size_t)longest_line || ODDITIES - odd_count < READ_SIZE / 32) break;  /* the rest: next turn */
        char *data = arena + used;
        size_t kept = (size_t)partial->size;
        if (kept) memcpy(data, partial->data, kept);
        ssize_t got = recv(fd_of[client], data + kept, READ_SIZE, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (due) moment = now();
        if (got <= 0) { report(&odd_count, GONE, client); continue; }
        size_t size = kept + (size_t)got, right = slow[client] ? 0 : check(client, data, size, moment, &odd_count);
        size_t left = size - right;
        partial->size = 0;
        if (slow[client] || left > (size_t)longest_line || memchr(data + right, '\n', left)) {
            struct odd *odd = report(&odd_count, RAW, client);
            odd->data = data + right;
            odd->size = (int64_t)left;
            used += size;
        } else if (left) {
            if (!partial->data && !(partial->data = malloc((size_t)longest_line))) abort();
            memcpy(partial->data, data + right, left);
            partial->size = (int)left;
        }
    }
    return odd_count;
}

/* Say `lines` more lines at once; what the socket does not take is kept, and tried again first. */
static void say(int talker, int64_t lines) {
    int size = prefix_size + text_size + suffix_size;
    struct partial *rest = &unsent[talker];
    if (fd_of[talker] < 0) return;
    if (!rest->size) {
        char *line = rest->data = realloc(rest->data, (size_t)(lines * size));
        if (!line) abort();
        for (int64_t i = 0; i < lines; i++, line += size) {
            uint64_t value = (uint64_t)talker << NUMBER_BITS | (uint64_t)sent[talker]++;
            memcpy(line, prefix, (size_t)prefix_size);
            memcpy(line + prefix_size, text, (size_t)text_size);
            encode(value, line + prefix_size);
            memcpy(line + prefix_size + text_size - KEY, line + prefix_size, KEY);
            memcpy(line + prefix_size + text_size, suffix, (size_t)suffix_size);
        }
        rest->size = (int)(lines * size);
    }
    ssize_t taken = send(fd_of[talker], rest->data, (size_t)rest->size, MSG_NOSIGNAL);
    if (taken < 0) taken = errno == EAGAIN || errno == EINTR ? 0 : rest->size;      /* broken: its reading side tells */
    rest->size -= (int)taken;
    memmove(rest->data, rest->data + taken, (size_t)rest->size);
}

void say_one(int talker) { say(talker, 1); }

/* Closed loop: whoever was heard by the next client in the ring may say more. */
void keep_talking(int64_t allowed) {
    for (int talker = 0; talker < talkers; talker++) {
        int64_t lines = heard[(int64_t)((talker + 1) % clients) * talkers + talker] + allowed - sent[talker];
        if (lines > 0 || unsent[talker].size) say(talker, lines);
    }
}

/* What has still to be heard: by everybody, or by those alone who are still there. */
int64_t outstanding(int everybody) {
    int64_t total = 0;
    for (int client = 0; client < clients; client++)
        for (int talker = 0; talker < talkers && (everybody || fd_of[client] >= 0); talker++)
            if (client != talker) total += sent[talker] - heard[(int64_t)client * talkers + talker];
    return total;
}
