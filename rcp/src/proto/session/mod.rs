//! A session between two neighbours, as a value.
//!
//! Whoever drives one hands it frames and the time, and carries out what it asks for: frames to
//! send, an hour to be woken at, events. It owns the handshake, signs of life and the end; which
//! frame may come is one table ([`action`]). Streams, credits and acknowledgements belong to the
//! node: they pass through as [`Event::Frame`]. No clock, no socket, no randomness.

mod config;
mod peer;
mod table;
mod version;

pub use config::{CloseReason, Event, Peer, Peers, SendError, SessionConfig, Side};
pub use table::{Action, SessionState, action};
pub use version::{ABILITIES, Abilities, VERSIONS, abilities, version_named};

use std::collections::VecDeque;
use std::time::Duration;

use super::clock::Mono;
use super::frame::{
    Frame, FrameType, GoodbyeCode, Hello, Join, JoinKey, RefuseCode, Role, Welcome,
};
use super::ids::VolumeId;
use super::limits::{HANDSHAKE_DEADLINE, IDLE_KEEPALIVES, MAX_SESSION_QUEUE};

/// One connection's protocol state.
#[derive(Debug)]
pub struct Session {
    cfg: SessionConfig,
    side: Side,
    state: SessionState,
    /// Until the session is up.
    deadline: Mono,
    heard: Mono,
    next_ping: Mono,
    ping: Option<(u64, Mono)>,
    pings: u64,
    rtt: Option<Duration>,
    /// Known once the hello or welcome was checked.
    peer: Option<Peer>,
    transmit: VecDeque<Frame>,
    events: VecDeque<Event>,
}

impl Session {
    /// A session on a fresh connection, after the opening line. A dialler's hello is queued.
    #[must_use]
    pub fn new(cfg: SessionConfig, side: Side, now: Mono) -> Self {
        let mut s = Self::idle(cfg, side, SessionState::AwaitHello, now);
        if let Side::Dialer(role) = side {
            s.state = SessionState::HelloSent;
            let hello = Frame::Hello(Hello {
                versions: s.cfg.versions,
                node: s.cfg.node.clone(),
                instance: s.cfg.instance,
                group: s.cfg.group.clone(),
                role,
                path: s.own_path(role),
                feeder: s.own_feeder(role),
                keepalive_ms: s.keepalive_ms(),
            });
            s.transmit.push_back(hello);
        }
        s
    }

    /// A connection that only asks whether the peer would accept this node as feeder of `volumes`:
    /// the answer comes as [`Event::Frame`] with a `ProbeReply`, then [`CloseReason::Probed`].
    #[must_use]
    pub fn new_probe(cfg: SessionConfig, volumes: Vec<VolumeId>, now: Mono) -> Self {
        let mut s = Self::idle(cfg, Side::Dialer(Role::Sender), SessionState::ProbeSent, now);
        let (group, path) = (s.cfg.group.clone(), s.cfg.path.clone());
        s.transmit.push_back(Frame::Probe { group, path, volumes });
        s
    }

    /// A further connection for the session with `peer`, which told the key.
    #[must_use]
    pub fn new_join(cfg: SessionConfig, key: JoinKey, peer: Peer, now: Mono) -> Self {
        let side = Side::Dialer(peer.role.other());
        let mut s = Self::idle(cfg, side, SessionState::JoinSent, now);
        s.transmit.push_back(Frame::Join(Join { node: s.cfg.node.clone(), key }));
        s.peer = Some(peer);
        s
    }

    fn idle(cfg: SessionConfig, side: Side, state: SessionState, now: Mono) -> Self {
        Self {
            cfg,
            side,
            state,
            deadline: now.after(HANDSHAKE_DEADLINE),
            heard: now,
            next_ping: now,
            ping: None,
            pings: 0,
            rtt: None,
            peer: None,
            transmit: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// The peer, once its hello or welcome was checked.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Time from the last answered ping to its answer.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The next frame to put on the wire. After [`Event::Closed`] the driver sends what is left and
    /// closes the connection.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        self.transmit.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); it may have changed after any call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        match self.state {
            SessionState::Closed => None,
            s if s.is_up() => Some(self.next_ping.min(self.idle_at())),
            _ => Some(self.deadline),
        }
    }

    /// The time has come, or has not: a call that is too early does nothing.
    pub fn handle_timeout(&mut self, now: Mono) {
        match self.state {
            SessionState::Closed => {}
            s if s.is_up() => self.keep_alive(now),
            _ if now < self.deadline => {}
            SessionState::AwaitHello
            | SessionState::Deciding
            | SessionState::Answering
            | SessionState::Joining => {
                let text = "the handshake took too long".to_owned();
                self.transmit.push_back(Frame::Refuse { code: RefuseCode::NotReady, text });
                self.end(CloseReason::HandshakeTimeout);
            }
            _ => self.end(CloseReason::HandshakeTimeout),
        }
    }

    /// A frame came.
    pub fn handle_frame(&mut self, now: Mono, frame: Frame) {
        let frame_type = frame.frame_type();
        match action(self.state, frame_type) {
            Action::Ignore => {}
            Action::Illegal => self.illegal(frame_type),
            // Of a later version than the one that was chosen.
            Action::Pass if !version::knows(self.version(), &frame) => self.illegal(frame_type),
            Action::Pass => {
                self.heard = self.heard.max(now);
                self.events.push_back(Event::Frame(frame));
            }
            Action::Own => {
                self.heard = self.heard.max(now);
                self.act(now, frame);
            }
        }
    }

    /// A frame of this type came, and the driver wants to hand it on itself, say because it carries
    /// a proved chunk. True if it is one that would be passed up; if it may not come, the session
    /// ends. Frames that are the session's own must go to [`handle_frame`](Self::handle_frame).
    pub fn admit(&mut self, now: Mono, frame_type: FrameType) -> bool {
        match action(self.state, frame_type) {
            Action::Pass => {
                self.heard = self.heard.max(now);
                true
            }
            Action::Ignore => false,
            Action::Own | Action::Illegal => {
                self.illegal(frame_type);
                false
            }
        }
    }

    /// Part of a frame came: the peer is alive even if a large frame takes long.
    pub fn note_received(&mut self, now: Mono) {
        self.heard = self.heard.max(now);
    }

    /// The connection failed.
    pub fn handle_broken(&mut self, text: &str) {
        self.end(CloseReason::Broken(text.to_owned()));
    }

    /// Bytes came that are no frame, or a frame whose content is not sound: nothing that follows can
    /// be trusted. The peer is told why, in words.
    pub fn handle_nonsense(&mut self, text: &str) {
        if self.state != SessionState::Closed {
            self.say_protocol(text.to_owned());
            self.end(CloseReason::Nonsense(text.to_owned()));
        }
    }

    /// There is no connection, because one side does not trust the other.
    pub fn handle_untrusted(&mut self, text: &str) {
        self.end(CloseReason::Untrusted(text.to_owned()));
    }

    /// The version that was chosen; the newest one spoken here until then.
    fn version(&self) -> u16 {
        self.peer.as_ref().map_or(self.cfg.versions.1, |p| p.version)
    }

    /// Queues a frame of the application, in the words of the version that was chosen.
    ///
    /// # Errors
    /// [`SendError`] if the peer would have to refuse it, or the queue is full.
    pub fn send(&mut self, frame: Frame) -> Result<(), SendError> {
        let frame_type = frame.frame_type();
        self.check_send(frame_type)?;
        if self.transmit.len() >= MAX_SESSION_QUEUE {
            return Err(SendError::Full);
        }
        self.transmit.push_back(version::fit(self.version(), frame));
        if self.state == SessionState::Answering {
            self.end(CloseReason::Probed);
        }
        Ok(())
    }

    /// Whether a frame of the application may be sent now, for drivers with a queue of their own.
    ///
    /// # Errors
    /// [`SendError::Illegal`] if the peer would have to refuse it, or its version has no such frame
    /// and nothing that stands for it.
    pub fn check_send(&self, frame: FrameType) -> Result<(), SendError> {
        let ok = match (self.state, &self.peer) {
            (SessionState::Answering, _) => frame == FrameType::ProbeReply,
            (s, Some(peer)) => s.opposite().is_some_and(|there| {
                action(there, frame) == Action::Pass && version::has(peer.version, frame)
            }),
            _ => false,
        };
        if ok { Ok(()) } else { Err(SendError::Illegal { state: self.state, frame }) }
    }

    /// Says yes to [`Event::Asked`], with the feeder number to give if this node is fed.
    pub fn accept(&mut self, now: Mono, feeder: u32) {
        if self.state == SessionState::Deciding {
            self.cfg.feeder = feeder;
            if let Some(peer) = self.peer.as_mut().filter(|p| p.role == Role::Sender) {
                peer.feeder = feeder;
            }
            self.welcome(now);
        }
    }

    /// Says yes to [`Event::Joins`]: this is a further connection of the session with `peer`.
    pub fn take_in(&mut self, now: Mono, peer: Peer, session: u64) {
        if self.state == SessionState::Joining {
            self.peer = Some(peer);
            self.transmit.push_back(Frame::Joined { session });
            self.come_up(now);
        }
    }

    /// Says no to [`Event::Asked`] or [`Event::Joins`].
    pub fn refuse(&mut self, code: RefuseCode, text: &str) {
        if matches!(self.state, SessionState::Deciding | SessionState::Joining) {
            self.reject((code, text.to_owned()));
        }
    }

    /// Ends the session.
    pub fn close(&mut self, code: GoodbyeCode, text: &str) {
        if self.state != SessionState::Closed {
            self.transmit.push_back(Frame::Goodbye { code, text: text.to_owned() });
            self.end(CloseReason::Local { code, text: text.to_owned() });
        }
    }

    fn act(&mut self, now: Mono, frame: Frame) {
        match frame {
            Frame::Hello(hello) => self.on_hello(now, hello),
            Frame::Welcome(w) => self.on_welcome(now, w),
            Frame::Join(join) => self.on_join(join),
            Frame::Joined { .. } => self.come_up(now),
            Frame::Refuse { code, text } => self.end(CloseReason::Refused { code, text }),
            Frame::Goodbye { code, text } => self.end(CloseReason::Goodbye { code, text }),
            // a peer that asks faster than it reads gets fewer answers, not our memory
            Frame::Ping { nonce } if self.transmit.len() < MAX_SESSION_QUEUE => {
                self.transmit.push_back(Frame::Pong { nonce });
            }
            Frame::Pong { nonce } => {
                if let Some((_, sent)) = self.ping.take_if(|(n, _)| *n == nonce) {
                    self.rtt = Some(now.since(sent));
                }
            }
            Frame::Probe { ref group, .. } if *group != self.cfg.group => {
                let text = format!("this connection is for group {}, not {group}", self.cfg.group);
                self.reject((RefuseCode::Group, text));
            }
            Frame::Probe { .. } => {
                self.state = SessionState::Answering;
                self.events.push_back(Event::Frame(frame));
            }
            Frame::ProbeReply { .. } => {
                self.events.push_back(Event::Frame(frame));
                self.end(CloseReason::Probed);
            }
            _ => {}
        }
    }

    fn on_hello(&mut self, now: Mono, hello: Hello) {
        match peer::check_hello(&self.cfg, &hello) {
            Err(no) => self.reject(no),
            Ok(p) => {
                self.peer = Some(p);
                if self.cfg.ask {
                    self.state = SessionState::Deciding;
                    self.events.push_back(Event::Asked(hello));
                } else {
                    self.welcome(now);
                }
            }
        }
    }

    fn on_join(&mut self, join: Join) {
        if self.cfg.join.is_some() {
            self.state = SessionState::Joining;
            self.events.push_back(Event::Joins(join));
        } else {
            let text = format!("{} takes no further connections", self.cfg.node);
            self.reject((RefuseCode::Join, text));
        }
    }

    /// Answers the hello that was checked.
    fn welcome(&mut self, now: Mono) {
        let Some(peer) = self.peer.clone() else { return };
        let role = peer.role.other();
        self.transmit.push_back(Frame::Welcome(Welcome {
            version: peer.version,
            node: self.cfg.node.clone(),
            instance: self.cfg.instance,
            group: self.cfg.group.clone(),
            role,
            path: self.own_path(role),
            feeder: self.own_feeder(role),
            keepalive_ms: self.keepalive_ms(),
            join: self.cfg.join.filter(|_| abilities(peer.version).join),
        }));
        self.come_up(now);
    }

    fn on_welcome(&mut self, now: Mono, w: Welcome) {
        let Side::Dialer(role) = self.side else { return };
        match peer::check_welcome(&self.cfg, role, w) {
            Err(no) => self.reject(no),
            Ok(p) => {
                self.peer = Some(p);
                self.come_up(now);
            }
        }
    }

    fn come_up(&mut self, now: Mono) {
        let Some(peer) = self.peer.clone() else { return };
        let role = peer.role.other();
        self.heard = now;
        self.next_ping = now.after(peer.keepalive);
        let event = if matches!(self.state, SessionState::Joining | SessionState::JoinSent) {
            self.state = SessionState::further(role);
            Event::Joined
        } else {
            self.state = SessionState::up(role);
            Event::Up(peer)
        };
        self.events.push_back(event);
    }

    fn keep_alive(&mut self, now: Mono) {
        if now >= self.idle_at() {
            let text = "nothing came for three keep-alive intervals".to_owned();
            self.transmit.push_back(Frame::Goodbye { code: GoodbyeCode::Idle, text });
            self.end(CloseReason::Idle);
        } else if now >= self.next_ping {
            self.next_ping = now.after(self.keepalive());
            self.pings += 1;
            self.ping = Some((self.pings, now));
            if self.transmit.len() < MAX_SESSION_QUEUE {
                self.transmit.push_back(Frame::Ping { nonce: self.pings });
            }
        }
    }

    fn illegal(&mut self, frame: FrameType) {
        let reason = CloseReason::Protocol { state: self.state, frame };
        self.say_protocol(reason.to_string());
        self.end(reason);
    }

    /// The last word to a peer that breaks the protocol.
    fn say_protocol(&mut self, text: String) {
        self.transmit.push_back(match self.state {
            SessionState::AwaitHello => Frame::Refuse { code: RefuseCode::Protocol, text },
            _ => Frame::Goodbye { code: GoodbyeCode::Protocol, text },
        });
    }

    fn reject(&mut self, (code, text): peer::No) {
        self.transmit.push_back(Frame::Refuse { code, text: text.clone() });
        self.end(CloseReason::Rejected { code, text });
    }

    fn end(&mut self, reason: CloseReason) {
        if self.state != SessionState::Closed {
            self.state = SessionState::Closed;
            self.events.push_back(Event::Closed(reason));
        }
    }

    fn keepalive(&self) -> Duration {
        self.peer.as_ref().map_or(self.cfg.keepalive, |p| p.keepalive)
    }

    fn idle_at(&self) -> Mono {
        self.heard.after(self.keepalive() * IDLE_KEEPALIVES)
    }

    fn own_path(&self, role: Role) -> Vec<super::ids::NodeName> {
        match role {
            Role::Sender => self.cfg.path.clone(),
            Role::Receiver => Vec::new(),
        }
    }

    fn own_feeder(&self, role: Role) -> u32 {
        match role {
            Role::Sender => 0,
            Role::Receiver => self.cfg.feeder,
        }
    }

    fn keepalive_ms(&self) -> u32 {
        u32::try_from(self.cfg.keepalive.as_millis()).unwrap_or(u32::MAX)
    }
}
