//! Operators: they look, pause, and delete and make anew.

use ltq_client::{Admin, Client, RequestError, TopicOptions};
use tokio::{sync::watch, time::sleep};

use crate::{
    chance::Odds,
    history::{History, What},
    plan::Part,
    topics::{TOPICS, channel_name, comes_and_goes, topic_name},
};

/// An operator.
pub(crate) struct Operating {
    pub(crate) part: Part,
    pub(crate) client: Client,
    pub(crate) history: History,
}

impl Operating {
    /// Does what comes to mind until nobody wants any more of it. What is paused then has to be
    /// resumed by somebody else.
    pub(crate) async fn run(self, run: watch::Receiver<bool>) {
        let Self { part, client, history } = self;
        let (name, chance, admin) = (part.name, part.chance, client.admin());
        // He looks, pauses a topic or a channel, or deletes one.
        let habits = Odds::about([4, 1, 1, 1, 1], &chance);
        while *run.borrow() {
            sleep(chance.millis(3_000)).await;
            let topic = chance.below(TOPICS.len() as u64) as usize;
            let channels = TOPICS.get(topic).map_or(1, |topic| topic.channels);
            let channel = chance.below(channels as u64) as usize;
            let (of, within) = (topic_name(topic), channel_name(channel));
            let (of, within) = (of.as_str(), within.as_str());
            match habits.draw(&chance) {
                1 => {
                    let paused = admin.pause_topic(of).await;
                    history.note(&name, format!("pauses {of}: {paused:?}"));
                    sleep(chance.millis(5_000)).await;
                    let resumed = admin.resume_topic(of).await;
                    history.note(&name, format!("resumes {of}: {resumed:?}"));
                }
                2 => {
                    let paused = admin.pause_channel(of, within).await;
                    history.note(&name, format!("pauses {of}/{within}: {paused:?}"));
                    sleep(chance.millis(5_000)).await;
                    let resumed = admin.resume_channel(of, within).await;
                    history.note(&name, format!("resumes {of}/{within}: {resumed:?}"));
                }
                3 if comes_and_goes(topic) => {
                    history.add(&name, What::Deleting { topic });
                    let deleted = admin.delete_topic(of).await;
                    history.note(&name, format!("deletes {of}: {deleted:?}"));
                    sleep(chance.millis(1_000)).await;
                    make(&admin, &history, &name, topic).await;
                }
                4 if comes_and_goes(topic) => {
                    history.add(&name, What::Deleting { topic });
                    let deleted = admin.delete_channel(of, within).await;
                    history.note(&name, format!("deletes {of}/{within}: {deleted:?}"));
                    sleep(chance.millis(1_000)).await;
                    make(&admin, &history, &name, topic).await;
                }
                _ => {
                    let asked = history.elapsed();
                    match admin.show_topic(of).await {
                        Ok(stats) => history.add(&name, What::Counted { topic, asked, stats }),
                        Err(error) => history.note(&name, format!("does not see {of}: {error}")),
                    }
                }
            }
        }
    }
}

/// Makes a topic and its channels, where they are not.
pub(crate) async fn make(admin: &Admin, history: &History, name: &str, topic: usize) -> bool {
    let Some(plan) = TOPICS.get(topic) else { return false };
    let of = topic_name(topic);
    let options = TopicOptions { durability: Some(plan.durability), ..Default::default() };
    let mut made = vec![admin.create_topic(of.as_str(), options).await];
    for channel in 0..plan.channels {
        let channel = channel_name(channel);
        let options = Default::default();
        made.push(admin.create_channel(of.as_str(), channel.as_str(), options).await);
    }
    history.note(name, format!("makes {of}: {made:?}"));
    made.iter().all(Result::is_ok)
}

/// Resumes everything.
pub(crate) async fn resume_all(admin: &Admin) -> Result<(), String> {
    for (topic, plan) in TOPICS.iter().enumerate() {
        let of = topic_name(topic);
        // What comes and goes may be gone.
        let or_gone = |result: Result<(), RequestError>| match result {
            Err(error) if !plan.comes_and_goes => Err(error.to_string()),
            _ => Ok(()),
        };
        or_gone(admin.resume_topic(of.as_str()).await)?;
        for channel in 0..plan.channels {
            or_gone(admin.resume_channel(of.as_str(), channel_name(channel).as_str()).await)?;
        }
    }
    Ok(())
}
