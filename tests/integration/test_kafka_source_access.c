/*
 * Who may read: properties for SASL are passed through to the client, a wrong password is told of
 * while the source keeps trying, and a right that is missing is an error that names it. On a real
 * broker with users and access control.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

static struct broker broker;
static struct rig rig;
static struct rig_expected expected;

static const char *const secured[] = {
    "listener.security.protocol.map=CLIENT:SASL_PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "sasl.enabled.mechanisms=PLAIN",
    ("listener.name.client.plain.sasl.jaas.config="
     "org.apache.kafka.common.security.plain.PlainLoginModule required "
     "user_admin=\"all\" user_reader=\"none\";"),
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users=User:admin;User:ANONYMOUS", /* the nodes themselves have no names */
    "auto.create.topics.enable=true",
    NULL,
};

static const char *const admin[] = {"security.protocol=sasl_plaintext", "sasl.mechanism=PLAIN",
                                    "sasl.username=admin", "sasl.password=all", NULL};
static const char *const wrong[] = {"security.protocol=sasl_plaintext", "sasl.mechanism=PLAIN",
                                    "sasl.username=admin", "sasl.password=guessed", NULL};
static const char *const reader[] = {"security.protocol=sasl_plaintext", "sasl.mechanism=PLAIN",
                                     "sasl.username=reader", "sasl.password=none", NULL};

static void start_broker(void)
{
    (void)broker_start(&broker, "4.1", 1, secured);
}

static void stop_broker(void)
{
    (void)broker_stop(&broker);
}

/* A topic is made by the first who may write to it. */
static bool begin(const char *topic, const char *const *properties)
{
    static const struct broker_how how = {.properties = admin};

    if (!broker_usable(&broker)) {
        return false;
    }
    BROKER_MUST(&broker, broker_send_numbers(&broker, topic, 0, 1, 100, &how));
    rig_expect_numbers(&expected, 1, 100);
    rig_open(&rig, broker_address(&broker), topic);
    rig.text = rig_text_timeless;
    rig.kafka.properties = properties;
    return true;
}

START_TEST(properties_for_sasl_reach_the_client)
{
    if (!begin("sasl", admin)) {
        return;
    }
    rig.kafka.group = "sasl";
    rig_up(&rig);
    rig_await(&rig, 100);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

START_TEST(a_wrong_password_is_told_of_and_a_stop_is_quick)
{
    struct levee_error err = {0};

    if (!begin("password", wrong)) {
        return;
    }
    rig_up(&rig);
    rig_await_said(&rig, "uthentication failed");
    rig_await_error(&rig, 1);
    ck_assert_int_eq(rig.error.code, LEVEE_EBROKER);
    int64_t before = rig_now_ms();
    ck_assert_int_eq(levee_stop(rig.ctx, &err), LEVEE_OK);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    int64_t took = rig_now_ms() - before;
    ck_assert_msg(took < 3000, "the stop took %" PRId64 " ms", took);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

START_TEST(a_topic_without_the_right_to_read_it_is_an_error)
{
    struct levee_error err = {0};

    if (!begin("closed", reader)) {
        return;
    }
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_EACCESS);
    ck_assert_ptr_nonnull(strstr(err.what, "closed"));
    ck_assert_int_eq(rig.total, 0);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kafka_source_access");
    TCase *t = tcase_create("real broker");

    tcase_add_unchecked_fixture(t, start_broker, stop_broker);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, properties_for_sasl_reach_the_client);
    tcase_add_test(t, a_wrong_password_is_told_of_and_a_stop_is_quick);
    tcase_add_test(t, a_topic_without_the_right_to_read_it_is_an_error);
    suite_add_tcase(s, t);
    return suite_main(s);
}
