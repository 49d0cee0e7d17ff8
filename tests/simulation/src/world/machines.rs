//! What goes wrong with the machines of nodes and with their agents.

use super::{cluster::NOTICED, *};

impl World {
    pub(super) fn node_fault(&mut self, fault: Fault) {
        let n_nodes = self.nodes.len().max(1) as u64;
        let place = |node: u64| (node % n_nodes) as usize;
        match fault {
            _ if self.nodes.is_empty() => (),
            Fault::AgentCrash { node, for_ } => self.end_agent(place(node), for_),
            Fault::NodeOff { node, for_ } => {
                let place = place(node);
                let now = self.node_time(place);
                self.nodes[place].lose_power(now);
                self.hang_up(place, NOTICED);
                self.after(for_, Event::StartNode { place });
            }
            Fault::NodeDead { node } => {
                let place = place(node);
                // Most stay.
                if (self.nodes.iter().filter(|node| node.is_dead).count() + 1) * 3 <= self.nodes.len() {
                    let now = self.node_time(place);
                    self.nodes[place].lose_power(now);
                    self.nodes[place].is_dead = true;
                    self.hang_up(place, NOTICED);
                }
            }
            Fault::NodeCut { node, for_ } => self.network.isolate(self.nodes[place(node)].id, self.now + for_),
            Fault::NodeClock { node, by } => self.nodes[place(node)].clock_ahead += by,
            _ => (),
        }
    }

    pub(super) fn end_agent(&mut self, place: usize, for_: u64) {
        let now = self.node_time(place);
        self.nodes[place].kill(now);
        self.hang_up(place, (MS, 50 * MS));
        self.after(for_, Event::StartNode { place });
    }

    fn hang_up(&mut self, place: usize, noticed: (u64, u64)) {
        if let Some(link) = self.links.get(&place) {
            self.sever(place, link.number, noticed);
        }
    }

    pub(super) fn calm_nodes(&mut self) {
        for place in 0..self.nodes.len() {
            self.nodes[place].machine.is_calm = true;
            self.nodes[place].clock_ahead = 0;
            self.start_node(place);
        }
    }
}
