/*
 * What the examples on files share: the lines of a file through a queue source, once each.
 *
 * Lines are numbered from 1. The source knows the last number that is durable, so a program that
 * was killed goes on with the line after it, and what it sends twice is taken once.
 */
#ifndef LEVEE_EXAMPLES_REPLAY_H
#define LEVEE_EXAMPLES_REPLAY_H

#include <levee/levee.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REPLAY_LINES 16 /* sent at once, a millisecond apart: a file is a fast stream */

static void replay_pause(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Sends n lines, the first of which has this number; waits while the buffer is full. */
static int replay_push(levee_stream *lines, char *const *text, size_t n, uint64_t number,
                       struct levee_error *err)
{
    struct levee_record r[REPLAY_LINES];
    int code;

    for (size_t i = 0; i < n; i++) {
        r[i] = (struct levee_record){.value = levee_text(text[i])};
    }
    while ((code = levee_queue_push(lines, r, n, number, err)) == LEVEE_EFULL) {
        replay_pause();
    }
    replay_pause();
    return code;
}

struct replay {
    const char *file, *state, *out; /* of lines; the context's directory; the output's */
    levee_stream *lines;            /* the source: build sets it */
    /* Sees every line before it is sent, and those that are durable since an earlier life. NULL:
     * nobody does. */
    int (*on_line)(void *replay, const char *line, bool durable, struct levee_error *err);
};

/* All lines of f that are not durable yet. */
static int replay_lines(struct replay *all, FILE *f, struct levee_error *err)
{
    levee_stream *lines = all->lines;
    uint64_t skip = levee_queue_durable(lines), number = 0;
    char *text[REPLAY_LINES] = {NULL};
    size_t n = 0, cap[REPLAY_LINES] = {0};
    int code = LEVEE_OK;

    while (code == LEVEE_OK && getline(&text[n], &cap[n], f) >= 0) {
        text[n][strcspn(text[n], "\n")] = '\0';
        code = all->on_line ? all->on_line(all, text[n], number < skip, err) : LEVEE_OK;
        n += ++number > skip;
        if (code == LEVEE_OK && n == REPLAY_LINES) {
            code = replay_push(lines, text, n, number - n + 1, err);
            n = 0;
        }
    }
    code = code || n == 0 ? code : replay_push(lines, text, n, number - n + 1, err);
    for (size_t i = 0; i < REPLAY_LINES; i++) {
        free(text[i]);
    }
    return code;
}

/* Runs the file through the graph, to its end; `after` (may be NULL) then sees the context once
 * more. Returns what main returns. */
static int replay(struct replay *r, levee_setup_fn build, void (*after)(levee_context *ctx))
{
    struct levee_options options = {
        .directory = r->state, .batch_interval_ms = 20, .on_failure = LEVEE_DEAD_LETTER};
    levee_context *ctx = NULL;
    struct levee_error err = {0};
    FILE *f = fopen(r->file, "r");
    int status = 0;

    if (!f) {
        perror(r->file);
        return 1;
    }
    if (levee_get_or_create(&ctx, &options, build, r, &err) || levee_start(ctx, &err) ||
        replay_lines(r, f, &err) || levee_drain(ctx, 0, &err) || levee_await(ctx, &err)) {
        status = levee_print_error(stderr, &err);
    } else if (after) {
        after(ctx);
    }
    levee_free(ctx);
    (void)fclose(f);
    return status;
}

#endif
