/*
 * Keeps the client fetching.
 *
 * A client whose queue is full stops fetching; librdkafka before 2.2 then looks at its queue again
 * when something happens on the connection, or after a second. A receiver that has emptied the
 * queue in between, which takes some tens of milliseconds, waits for the rest of that second: 50
 * byte lines at a tenth of the rate. Larger queues are no cure, since a queued message of 50 bytes
 * costs the client 400.
 *
 * So we watch the queue's length. When it has been full and is half empty again, each broker that
 * leads partitions of ours is asked a question, the cheapest there is (the offset of the end of
 * time), for all brokers in one call. The answer does not matter: what happens on the connection
 * makes the client look.
 */
#include "connectors/kafka_source.h"

#define LEADERS_MAX 64
#define RECENTLY    100000u /* messages, for the mean size */
#define SMALLEST    1000u   /* a user who wants a queue as short as this wants it dry */

static uint64_t setting(const struct kafka_source *s, const char *name)
{
    char value[32];
    size_t size = sizeof value;
    uint64_t n = 0;

    rd_kafka_conf_res_t answer = rd_kafka_conf_get(rd_kafka_conf(s->rk), name, value, &size);
    ASSERT(answer == RD_KAFKA_CONF_OK);
    for (const char *p = value; *p >= '0' && *p <= '9'; p++) {
        n = n * 10 + (uint64_t)(*p - '0');
    }
    return n;
}

void kafka_flow_open(struct kafka_source *s)
{
    s->flow = (struct kafka_flow){
        .queue = rd_kafka_queue_get_consumer(s->rk),
        .messages_max = setting(s, "queued.min.messages"),
        .bytes_max = setting(s, "queued.max.messages.kbytes") * 1024,
    };
}

void kafka_flow_close(struct kafka_source *s)
{
    if (s->flow.queue) {
        rd_kafka_queue_destroy(s->flow.queue);
        s->flow.queue = NULL;
    }
}

void kafka_flow_took(struct kafka_source *s, size_t messages, size_t bytes)
{
    struct kafka_flow *f = &s->flow;

    if (f->messages > RECENTLY) {
        f->messages /= 2;
        f->bytes /= 2;
    }
    f->messages += messages;
    f->bytes += bytes;
}

static bool has_leader(const rd_kafka_topic_partition_list_t *list, const int32_t *leaders,
                       int32_t leader)
{
    for (int i = 0; i < list->cnt; i++) {
        if (leaders[i] == leader) {
            return true;
        }
    }
    return false;
}

static void poke(struct kafka_source *s)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    int32_t leaders[LEADERS_MAX] = {0};

    for (size_t i = 0; i < s->count && list->cnt < LEADERS_MAX; i++) {
        const struct kafka_partition *p = s->partitions[i];
        if (!p->at_end && !p->resting && !has_leader(list, leaders, p->leader)) {
            leaders[list->cnt] = p->leader;
            rd_kafka_topic_partition_list_add(list, p->topic->name, p->id)->offset = INT64_MAX;
        }
    }
    if (list->cnt) {
        (void)rd_kafka_offsets_for_times(s->rk, list, KAFKA_ASK_FIRST_MS);
    }
    rd_kafka_topic_partition_list_destroy(list);
}

void kafka_flow_tend(struct kafka_source *s)
{
    struct kafka_flow *f = &s->flow;

    if (f->messages_max < SMALLEST) {
        return;
    }
    uint64_t length = rd_kafka_queue_length(f->queue);
    uint64_t by_bytes = f->bytes ? f->bytes_max * f->messages / f->bytes : f->messages_max;
    uint64_t max = by_bytes < f->messages_max ? by_bytes : f->messages_max;

    if (length >= max - max / 8) {
        f->full = true;
    } else if (f->full && length <= max / 2 && !s->parked) {
        f->full = false;
        poke(s);
    }
}
